"""What judges pairs: figures, rules of curation with their limits, and the instruments of both."""
