"""What ``python -m scripts.bench`` runs, one benchmark a file, and how it measures."""
