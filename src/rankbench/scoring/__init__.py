"""Measuring: trained sub-models and encoded rows enter, predictions, values and generated responses leave."""
