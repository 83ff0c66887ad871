"""The rendezvous of the ranks of a launch, and a gather through its store."""
