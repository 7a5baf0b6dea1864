package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// Whoever may put and list, and nothing else, can back up: a stolen backup machine can neither read nor delete what it wrote.
func TestPutAndListAreEnough(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}, s3: true})
	s.fill(4000, 5000) // more than one part
	access, secret := s.s3.User(t, s.bucket, "s3:PutObject", "s3:ListBucket")
	all := s.env
	s.env = append(slices.Clone(all), "AWS_ACCESS_KEY_ID="+access, "AWS_SECRET_ACCESS_KEY="+secret)
	first := s.backup()
	second := s.backup()
	if first.Line != second.Line {
		t.Errorf("lines %s and %s", first.Line, second.Line)
	}
	if len(second.Alerts) != 1 || !strings.Contains(second.Alerts[0], "may not read the objects under lines/") {
		t.Errorf("what cannot be noticed without reading is not told, or something else is: %q", second.Alerts)
	}
	s.run("list", "dcs").Exits(t, command.ExitOK, first.ID, second.ID)
	s.env = all
	s.run("verify", "dcs", "--all").Exits(t, command.ExitOK)
}

// What the bucket's lock protects is reported and kept, whole, and is no failure.
func TestLockedBackup(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}, s3: true, cluster: "    retention: {last: 1, minimum: 1}\n"})
	s.bucket = s.s3.LockedBucket(t)
	s.throughS3(s.s3.Endpoint)
	s.configure()
	s.fill(50, 200)
	locked := s.backup()
	until := time.Now().Add(time.Hour)
	for _, key := range s.snapshots() {
		_, err := s.s3.Client.PutObjectRetention(t.Context(), &s3.PutObjectRetentionInput{Bucket: &s.bucket, Key: &key,
			Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionModeCompliance, RetainUntilDate: &until}})
		if err != nil {
			t.Fatal(err)
		}
	}
	pause(locked)
	s.backup()
	s.run("expire", "dcs").Exits(t, command.ExitOK, "LOCKED", locked.ID)
	if all := s.list(); len(all) != 2 {
		t.Errorf("list shows %+v", all)
	}
	s.run("verify", "dcs", locked.ID).Exits(t, command.ExitOK)
	for _, key := range s.snapshots() {
		if strings.HasPrefix(key, "upload of ") {
			t.Errorf("%s is left", key)
		}
	}
}
