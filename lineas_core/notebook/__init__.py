"""Sliders in Jupyter and Colab."""
