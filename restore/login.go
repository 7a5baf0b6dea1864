package restore

import (
	"errors"
	"fmt"

	"github.com/requorum/requorum/internal/dbfile"
)

// loginCheck asks whether the restored cluster would let us in: without that nothing of it can be proven.
func (r *Restorer) loginCheck(p *prepared, report dbfile.Report) Check {
	c := Check{Name: "credentials", Status: CheckOK}
	if !report.AuthEnabled {
		c.Detail = "authentication is off in the source"
		return c
	}
	user, certificate := r.Credentials.Username, false
	if user == "" {
		user, certificate = r.Credentials.CommonName, true
	}
	err := dbfile.CheckLogin(p.path, user, r.Credentials.Password, certificate)
	if err == nil {
		c.Detail = fmt.Sprintf("user %s may log in to the restored cluster, with the root role", user)
		return c
	}
	c.Status = CheckFailed
	c.Detail = fmt.Sprintf("the restored cluster could not be proven: %v", err)
	switch {
	case errors.Is(err, dbfile.ErrLoginMissing):
		c.Detail += "; set username and password_file of a user with the root role as it was when the backup was taken"
	case errors.Is(err, dbfile.ErrNoUser):
		c.Detail += "; it was added after this backup: configure one that existed then, or choose a later backup with --at"
	case errors.Is(err, dbfile.ErrWrongCreds):
		c.Detail += "; the password was changed after this backup: configure the one of then (it is valid again after the restore), or choose a later backup with --at"
	case errors.Is(err, dbfile.ErrNotRoot):
		c.Detail += "; configure a user that had it when the backup was taken"
	}
	return c
}
