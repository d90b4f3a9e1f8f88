"""People's decisions on pairs, and the page where they are made."""
