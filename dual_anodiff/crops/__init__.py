"""Small defects: crops at the pictures' own resolution, and pairs of them put back into whole pictures."""
