"""The same work in other programs: each file is what its library's users would write."""
