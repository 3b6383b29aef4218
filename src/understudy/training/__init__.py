"""Training the exits of a network: its backbone stays frozen, only heads learn."""
