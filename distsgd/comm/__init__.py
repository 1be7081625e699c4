"""How processes communicate: transports, and the dispatcher that gets a step of gradients out of them."""
