"""Image files, good and hostile: `seeds` are good, `mutations` are made from them, `bombs` are built."""
