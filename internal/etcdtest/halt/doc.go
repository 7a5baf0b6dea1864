// Package halt stops other processes at a moment that a test names, so that what the test does there can be neither early nor late.
package halt
