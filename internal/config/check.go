package config

import "regexp"

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

const nameAdvice = "use up to 63 letters, digits, points, dashes and underscores, beginning with a letter or digit"

func (c *Config) check() Problems { return nil }
