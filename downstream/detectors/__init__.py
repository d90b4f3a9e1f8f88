"""anomalib's detectors: their data, backbones, training and test."""
