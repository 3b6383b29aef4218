"""Serving: a cascade behind the Open Inference Protocol and routes of its own."""
