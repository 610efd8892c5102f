"""The four stages of a build; each turns a range of samples into one immutable file."""
