"""What tells two groups of images apart, component by component and logit by logit."""
