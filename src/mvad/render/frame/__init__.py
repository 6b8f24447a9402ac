"""The object's own frame: templates of a category's stable poses, and the pose of a scan's object against them."""
