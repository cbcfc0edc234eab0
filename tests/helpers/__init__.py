"""What several tests make: small models, maps, a Studio, a hub."""
