"""Text to audio with any latent diffusion model; plain torch, sees a model only through ``LatentGenerator``."""
