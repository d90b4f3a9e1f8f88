"""What a category's normals show: which pixels are object, and which mirrorings they bear."""
