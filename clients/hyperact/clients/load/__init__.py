"""Load on a service: sessions that act as fast as they are answered, or at a rate, and how long the answers took."""
