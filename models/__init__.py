"""The network: attention U-Net, its exact attention statistics, what it is fed, and checkpoints.

No file is opened here, and nothing of `pipeline` is imported. Reading order: `attention_unet`, `attention`,
`stretch`, `preprocess`, `checkpoint`. Nothing is imported up here: workers that only decode need no torch.
"""
