"""Are the features fresh, whole and like those of the reference week?"""
