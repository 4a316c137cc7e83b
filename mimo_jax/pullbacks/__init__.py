"""Pullbacks that know the Gramian of their gradients without keeping K."""
