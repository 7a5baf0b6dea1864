package storage

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// ParseURL reads the URL of a store, s3://bucket/prefix?region=… or file:///path, far enough to choose the adapter by its
// scheme; the adapter's own FromURL reads the rest. Credentials in a URL would end in logs and in lists of
// processes: they are refused.
func ParseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		// url.Error repeats its input, which may hold a secret.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, fmt.Errorf("store URL: %w", err)
	}
	switch {
	case u.Scheme == "":
		return nil, fmt.Errorf("store URL %q has no scheme: write s3://bucket/prefix or file:///path", u.Redacted())
	case u.User != nil:
		return nil, fmt.Errorf("store URL %q holds credentials: give them by the environment, a profile or the configuration file", u.Redacted())
	case u.Opaque != "":
		return nil, fmt.Errorf("store URL %q: two slashes are missing after the scheme", u.Redacted())
	case u.Fragment != "":
		return nil, fmt.Errorf("store URL %q: a # must be written as %%23", u.Redacted())
	}
	return u, nil
}

// Query returns the parameters of u and refuses those that are not in known, have no value, or are given twice.
func Query(u *url.URL, known ...string) (map[string]string, error) {
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("store URL %s://%s%s: %w", u.Scheme, u.Host, u.Path, err)
	}
	q := make(map[string]string, len(values))
	for name, v := range values {
		switch {
		case !slices.Contains(known, name):
			return nil, fmt.Errorf("store URL %s://%s%s: unknown parameter %q; known are: %s", u.Scheme, u.Host, u.Path, name, describe(known))
		case len(v) > 1:
			return nil, fmt.Errorf("store URL %s://%s%s: parameter %q is given %d times", u.Scheme, u.Host, u.Path, name, len(v))
		case v[0] == "":
			return nil, fmt.Errorf("store URL %s://%s%s: parameter %q has no value", u.Scheme, u.Host, u.Path, name)
		}
		q[name] = v[0]
	}
	return q, nil
}

func describe(known []string) string {
	if len(known) == 0 {
		return "none"
	}
	return strings.Join(known, ", ")
}
