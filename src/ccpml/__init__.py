"""Deep metric learning with chance constraints (CCP)."""
