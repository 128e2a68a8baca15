"""The network: attention U-Net, its exact attention statistics, what it is fed, and checkpoints.

No file is opened here, and nothing of `pipeline` is imported. Reading order: `attention_unet`, `attention`,
`config`, `stretch`, `preprocess`, `header`, `checkpoint`. Nothing is imported up here: who only plans or
decodes needs no torch.
"""
