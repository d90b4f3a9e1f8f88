"""DualAnoDiff: two interrelated diffusion branches that draw image-mask pairs of defects."""
