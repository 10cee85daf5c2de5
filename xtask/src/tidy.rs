//! Checks over the tree that no compiler makes.
