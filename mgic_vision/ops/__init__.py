"""Operations on images, and the forms of modules that run in them."""
