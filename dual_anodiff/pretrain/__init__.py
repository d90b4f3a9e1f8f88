"""Making of `mini`, the bundled base: drawn corpus → VAE → UNet and text encoder → image encoder.

Imports nothing but torch, torchvision, diffusers, transformers, tokenizers and timm: it also runs on a bare GPU machine.
"""
