package storage

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	maxKey     = 1024 // bytes, S3's limit
	maxElement = 255  // bytes, the limit of file names
)

// CheckKey returns an error that matches [ErrKey] unless every store can hold key: valid UTF-8 without control characters, at
// most 1,024 bytes, made of elements between single slashes, each at most 255 bytes and none beginning with a dot.
// So a key can never climb out of a directory, nor meet a store's own hidden files.
func CheckKey(key string) error {
	bad := func(why string) error { return fmt.Errorf("%w: %q %s", ErrKey, key, why) }
	switch {
	case key == "":
		return bad("is empty")
	case len(key) > maxKey:
		return bad(fmt.Sprintf("is longer than %d bytes", maxKey))
	case !utf8.ValidString(key):
		return bad("is not valid UTF-8")
	case strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }):
		return bad("holds a control character")
	}
	for element := range strings.SplitSeq(key, "/") {
		switch {
		case element == "":
			return bad("has an empty element: a slash at an end, or two in a row")
		case element[0] == '.':
			return bad("has an element that begins with a dot")
		case len(element) > maxElement:
			return bad(fmt.Sprintf("has an element longer than %d bytes", maxElement))
		}
	}
	return nil
}
