"""CREMA-D: acted emotions, as sound and as video of the face."""
