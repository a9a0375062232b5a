"""How well the speakers translate, measured on recorded traffic by oracles that know nothing of them."""
