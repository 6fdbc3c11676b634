"""What to look at next in a data set, seen with a trained model: labels, images, shortcuts."""
