"""Procedurally drawn parts, textures and defects with exact masks: what `mini` learns from and what the demo shows."""
