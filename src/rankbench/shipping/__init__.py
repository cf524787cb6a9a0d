"""A finished run read back: its folder enters; its model, an export, a card or a choice of ranks leaves."""
