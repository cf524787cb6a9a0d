"""The loop: a family of sub-models and encoded rows enter, trained weights and what happened leave."""
