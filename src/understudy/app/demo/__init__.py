"""The demo: the whole job on scikit-learn's digits, with a zoo trained on the spot."""
