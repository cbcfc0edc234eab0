"""The device that training and answers share: priority, loaded models, lent GPUs."""
