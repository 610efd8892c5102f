"""Network Dissection and Net2Vec: components compared with masks of concepts."""
