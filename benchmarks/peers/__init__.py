"""The contestants: each is a program that trains one net for some seconds and prints a line of JSON."""
