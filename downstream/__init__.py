"""Consumers of image-mask pairs: localization, classification, detection, and the lift."""
