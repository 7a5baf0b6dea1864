package dbfile

import (
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// What [CheckLogin] can find, for errors.Is.
var (
	ErrNoUser       = errors.New("no such user")
	ErrWrongCreds   = errors.New("wrong password")
	ErrNotRoot      = errors.New("the user lacks the root role")
	ErrLoginMissing = errors.New("authentication is on, and no user is given")
)

// CheckLogin says whether a server that starts on the database file at path, which passed a check, would let user in,
// with the root role. A user whose name comes from a client certificate has no password: certificate is true then.
// Where authentication is off, everybody is let in.
func CheckLogin(path, user, password string, certificate bool) error {
	db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("read the users in the database: %w", err)
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		auth := tx.Bucket(schema.Auth.Name())
		if auth == nil || !slices.Equal(auth.Get([]byte("authEnabled")), []byte{1}) {
			return nil
		}
		if user == "" {
			return ErrLoginMissing
		}
		users := tx.Bucket(schema.AuthUsers.Name())
		if users == nil {
			return fmt.Errorf("user %s: %w", user, ErrNoUser)
		}
		row := users.Get([]byte(user))
		if row == nil {
			return fmt.Errorf("user %s: %w", user, ErrNoUser)
		}
		var u authpb.User
		if err := proto.Unmarshal(row, &u); err != nil {
			return fmt.Errorf("user %s in the database: %w", user, err)
		}
		if !certificate {
			if u.Options != nil && u.Options.NoPassword {
				return fmt.Errorf("user %s logs in by certificate only: %w", user, ErrWrongCreds)
			}
			if err := bcrypt.CompareHashAndPassword(u.Password, []byte(password)); err != nil {
				return fmt.Errorf("user %s: %w", user, ErrWrongCreds)
			}
		}
		if !slices.Contains(u.Roles, "root") {
			return fmt.Errorf("user %s: %w", user, ErrNotRoot)
		}
		return nil
	})
}
