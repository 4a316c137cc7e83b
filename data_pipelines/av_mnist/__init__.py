"""AV-MNIST: pictures of digits, and spectrograms of spoken ones."""
