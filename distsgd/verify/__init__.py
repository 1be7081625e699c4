"""`distsgd verify`: whether the bits of a run are those that training it again comes to."""
