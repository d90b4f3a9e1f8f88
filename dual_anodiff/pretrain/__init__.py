"""Making of `mini`, the bundled base: drawn corpus → VAE → UNet and text encoder.

Imports nothing but torch, torchvision, diffusers, transformers and tokenizers: it also runs on a bare GPU machine.
"""
