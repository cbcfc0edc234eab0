"""The device that training and answers share: whose turn it is, and the models on it."""
