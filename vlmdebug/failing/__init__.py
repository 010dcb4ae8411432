"""From a program that failed, its exception or its text, to the sample and the image."""
