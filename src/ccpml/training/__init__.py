"""The Lightning module, the CCP callback and the optimiser."""
