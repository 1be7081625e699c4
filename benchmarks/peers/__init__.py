"""The contestants: each a program that trains one net for some seconds and prints one line of JSON."""
