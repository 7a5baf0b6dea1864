package s3

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5" //nolint:gosec // what servers without other checksums verify
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/middleware"
	"golang.org/x/sync/errgroup"

	"github.com/requorum/requorum/storage"
)

// The SDK's own uploader (feature/s3/transfermanager) is not used: it hides how often a request was repeated, without which
// a 412 after a lost answer cannot be told from a taken key; it does not go on without what a server lacks;
// its part size for streams is fixed at what fits a smaller object; and it holds one part more than it sends.
const (
	// partSize is the same for all parts, because some servers demand that, and 10,000 of them, the most there can be,
	// hold 125 GB.
	partSize = 12 << 20
	maxParts = 10_000

	// inFlight is the number of parts of one upload in memory, at most 48 MiB: one is filled while the others are sent.
	inFlight = 4

	// firstRead is what is read before a whole part's buffer is taken: most objects are small.
	firstRead = 256 << 10
)

const (
	algorithm = "CRC64NVME"
	anything  = "*" // If-None-Match: only if nothing is there
)

// mode is what of the protocol one request makes use of.
type mode struct{ conditions, checksums bool }

func (s *Store) mode() mode { return mode{!s.noConditions.Load(), !s.noChecksums.Load()} }

// learn reports whether err says that the server does not know something that m used, and leaves it out from now on.
// The caller tries again without.
func (s *Store) learn(m mode, err error) bool {
	switch {
	case status(err) == http.StatusNotImplemented || code(err) == "NotImplemented":
		if m.conditions {
			s.noConditions.Store(true)
			return true
		}
	case code(err) == "InvalidArgument" || code(err) == "InvalidRequest":
		if !strings.Contains(strings.ToLower(err.Error()), "checksum") {
			return false
		}
	default:
		return false
	}
	if m.checksums {
		s.noChecksums.Store(true)
	}
	return m.checksums
}

// sourceError is an error of the caller's reader or context.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// fill reads until b is full. It returns io.EOF, perhaps with bytes, only at the true end.
func fill(ctx context.Context, r io.Reader, b []byte) (n int, err error) {
	for n < len(b) {
		if ctx.Err() != nil {
			return n, &sourceError{context.Cause(ctx)}
		}
		m, err := r.Read(b[n:])
		n += m
		if err == io.EOF {
			if ctx.Err() != nil {
				return n, &sourceError{context.Cause(ctx)}
			}
			return n, io.EOF
		}
		if err != nil {
			return n, &sourceError{err}
		}
	}
	return n, nil
}

// Put implements [storage.Store]. Up to 12 MiB go by one request; more by a multipart upload, which is aborted
// if anything fails. It holds at most 48 MiB.
func (s *Store) Put(ctx context.Context, key string, r io.Reader) (storage.Object, error) {
	if err := storage.CheckKey(key); err != nil {
		return storage.Object{}, s.fail(ctx, "put", key, err)
	}
	o, err := s.put(ctx, key, r)
	if own, ok := errors.AsType[*sourceError](err); ok {
		return storage.Object{}, fmt.Errorf("put %s: %w", key, own.err)
	}
	if err != nil {
		return storage.Object{}, s.fail(ctx, "put", key, err)
	}
	return o, nil
}

func (s *Store) put(ctx context.Context, key string, r io.Reader) (storage.Object, error) {
	head := make([]byte, firstRead)
	n, err := fill(ctx, r, head)
	if err == io.EOF {
		return s.putWhole(ctx, key, head[:n])
	}
	if err != nil {
		return storage.Object{}, err
	}
	part := s.buffer()
	n = copy(part, head)
	m, err := fill(ctx, r, part[n:])
	switch {
	case err == io.EOF:
		defer s.recycle(part)
		return s.putWhole(ctx, key, part[:n+m])
	case err != nil:
		s.recycle(part)
		return storage.Object{}, err
	}
	return s.putParts(ctx, key, part, r)
}

func (s *Store) buffer() []byte {
	if b, ok := s.parts.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, partSize)
}

func (s *Store) recycle(b []byte) {
	b = b[:partSize]
	s.parts.Put(&b)
}

// digest is the header by which the server verifies a body.
func (s *Store) digest(m mode, b []byte) (crc uint64, crcHeader, md5Header *string) {
	crc = s.crc.of(b)
	if m.checksums {
		return crc, aws.String(encode(crc)), nil
	}
	sum := md5.Sum(b) //nolint:gosec // against accidents, not attackers
	return crc, nil, aws.String(base64.StdEncoding.EncodeToString(sum[:]))
}

// putWhole stores an object by one request.
func (s *Store) putWhole(ctx context.Context, key string, b []byte) (storage.Object, error) {
	var out *s3.PutObjectOutput
	var crc uint64
	attempts := 0
	err := s.retry.Do(ctx, func() error {
		for {
			m := s.mode()
			if !m.conditions {
				if taken, err := s.taken(ctx, key); err != nil || taken {
					return s.orExists(ctx, key, err)
				}
			}
			in := &s3.PutObjectInput{
				Bucket: &s.o.Bucket, Key: &key, Body: bytes.NewReader(b), ContentLength: aws.Int64(int64(len(b))),
				StorageClass: types.StorageClass(s.o.StorageClass), ServerSideEncryption: types.ServerSideEncryption(s.o.SSE), SSEKMSKeyId: optional(s.o.KMSKey),
			}
			if m.conditions {
				in.IfNoneMatch = aws.String(anything)
			}
			crc, in.ChecksumCRC64NVME, in.ContentMD5 = s.digest(m, b)
			attempts++
			var err error
			if out, err = s.client.PutObject(ctx, in, unsigned); err != nil && s.learn(m, err) {
				continue
			}
			return s.fail(ctx, "put", key, err)
		}
	})
	if errors.Is(err, storage.ErrExists) && attempts > 1 {
		if o, ok := s.ours(ctx, key, int64(len(b)), crc); ok {
			return o, nil
		}
	}
	if err != nil {
		return storage.Object{}, err
	}
	o := storage.Object{Key: key, Size: int64(len(b)), Modified: serverTime(out.ResultMetadata)}
	if aws.ToString(out.ChecksumCRC64NVME) == encode(crc) {
		o.Checksum = checksumOf(crc)
	}
	return o, nil
}

func (s *Store) orExists(ctx context.Context, key string, err error) error {
	if err == nil {
		return s.exists(key)
	}
	return s.fail(ctx, "put", key, err)
}

func (s *Store) exists(key string) error {
	return &storage.Error{Op: "put", Store: s.name, Key: key, Kind: storage.ErrExists}
}

// checksumOf is the form of storage.Object.Checksum.
func checksumOf(crc uint64) string { return strings.ToLower(algorithm) + ":" + encode(crc) }

// serverTime is the moment of a response by the server's clock, or zero.
func serverTime(m middleware.Metadata) time.Time {
	t, _ := awsmiddleware.GetServerTime(m)
	return t
}

// taken asks whether an object of exactly this key is there. Listing needs no right to read.
func (s *Store) taken(ctx context.Context, key string) (bool, error) {
	out, err := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &s.o.Bucket, Prefix: &key, MaxKeys: aws.Int32(1)})
	if err != nil {
		return false, err
	}
	return len(out.Contents) > 0 && aws.ToString(out.Contents[0].Key) == key, nil
}

// ours reports whether the object under key has our size and checksum. If the key is taken after an attempt whose answer was
// lost, that tells our own object from another's.
func (s *Store) ours(ctx context.Context, key string, size int64, crc uint64) (storage.Object, bool) {
	head, err := s.head(ctx, key)
	if err != nil || aws.ToInt64(head.ContentLength) != size || fullChecksum(head) != encode(crc) {
		return storage.Object{}, false
	}
	return storage.Object{Key: key, Size: size, Modified: aws.ToTime(head.LastModified), Checksum: checksumOf(crc)}, true
}

// upload is one multipart upload.
type upload struct {
	s    *Store
	key  string
	id   string
	mode mode // as it was begun

	mu   sync.Mutex
	done []part
}

type part struct {
	number int32
	size   int
	crc    uint64
	etag   *string
}

// putParts stores an object whose first part is full, and whose rest r has.
func (s *Store) putParts(ctx context.Context, key string, first []byte, r io.Reader) (o storage.Object, err error) {
	// The condition is checked when the upload is complete. Asking first saves sending it all in vain; if
	// the answer is an error, that of the upload itself says more.
	if taken, err := s.taken(ctx, key); err == nil && taken {
		s.recycle(first)
		return storage.Object{}, s.exists(key)
	}
	u := &upload{s: s, key: key}
	if err := u.begin(ctx); err != nil {
		s.recycle(first)
		return storage.Object{}, err
	}
	defer func() {
		if err != nil {
			u.abort(ctx)
		}
	}()
	if err := u.send(ctx, first, r); err != nil {
		return storage.Object{}, err
	}
	return u.complete(ctx)
}

func (u *upload) begin(ctx context.Context) error {
	s := u.s
	return s.retry.Do(ctx, func() error {
		for {
			u.mode = s.mode()
			in := &s3.CreateMultipartUploadInput{
				Bucket: &s.o.Bucket, Key: &u.key,
				StorageClass: types.StorageClass(s.o.StorageClass), ServerSideEncryption: types.ServerSideEncryption(s.o.SSE), SSEKMSKeyId: optional(s.o.KMSKey),
			}
			if u.mode.checksums {
				in.ChecksumAlgorithm, in.ChecksumType = types.ChecksumAlgorithmCrc64nvme, types.ChecksumTypeFullObject
			}
			out, err := s.client.CreateMultipartUpload(ctx, in)
			if err != nil {
				// A condition plays no part in this request.
				if s.learn(mode{checksums: u.mode.checksums}, err) {
					continue
				}
				return s.fail(ctx, "put", u.key, err)
			}
			u.id = aws.ToString(out.UploadId)
			return nil
		}
	})
}

// errPartFailed ends the reading when a part could not be sent; the part's own error is reported.
var errPartFailed = errors.New("a part could not be sent")

// send uploads all parts. It owns first and every buffer it takes, and returns when no request is under way.
func (u *upload) send(ctx context.Context, first []byte, r io.Reader) error {
	sending, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	group, sending := errgroup.WithContext(sending)
	free := make(chan []byte, inFlight)
	taken := 1
	next := func() ([]byte, error) {
		select {
		case b := <-free:
			return b, nil
		default:
		}
		if taken < inFlight {
			taken++
			return u.s.buffer(), nil
		}
		select {
		case b := <-free:
			return b, nil
		case <-sending.Done():
			return nil, errPartFailed
		}
	}
	read := func() error {
		b, n, last := first, len(first), false
		for number := int32(1); ; number++ {
			if number > maxParts {
				free <- b
				return fmt.Errorf("the object is larger than %d GB, the most that an upload of unknown length can hold", int64(partSize)*maxParts/1e9)
			}
			body := b[:n]
			group.Go(func() error {
				defer func() { free <- body[:partSize] }()
				return u.part(sending, number, body)
			})
			if last {
				return nil
			}
			fresh, err := next()
			if err != nil {
				return err
			}
			m, err := fill(sending, r, fresh)
			switch {
			case err == io.EOF && m == 0:
				free <- fresh
				return nil
			case err == io.EOF:
				last = true
			case err != nil:
				free <- fresh
				return err
			}
			b, n = fresh, m
		}
	}
	readErr := read()
	failed := sending.Err() != nil // before our own stop
	if readErr != nil {
		stop(readErr)
	}
	partErr := group.Wait()
	for range taken {
		u.s.recycle(<-free)
	}
	switch {
	case ctx.Err() != nil:
		return &sourceError{context.Cause(ctx)}
	case failed && partErr != nil:
		return partErr
	case readErr != nil:
		return readErr
	case partErr != nil:
		return partErr
	}
	slices.SortFunc(u.done, func(a, b part) int { return cmp.Compare(a.number, b.number) })
	return nil
}

// part uploads one part and notes it.
func (u *upload) part(ctx context.Context, number int32, b []byte) error {
	s := u.s
	crc, crcHeader, md5Header := s.digest(u.mode, b)
	return s.retry.Do(ctx, func() error {
		out, err := s.client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket: &s.o.Bucket, Key: &u.key, UploadId: &u.id, PartNumber: &number,
			Body: bytes.NewReader(b), ContentLength: aws.Int64(int64(len(b))), ChecksumCRC64NVME: crcHeader, ContentMD5: md5Header,
		}, unsigned)
		if err != nil {
			return s.fail(ctx, "put", u.key, err)
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		u.done = append(u.done, part{number, len(b), crc, out.ETag})
		return nil
	})
}

// sum is the size and the checksum of the whole object.
func (u *upload) sum() (size int64, crc uint64) {
	full := shiftBy(partSize)
	for _, p := range u.done {
		by := full
		if p.size != partSize {
			by = shiftBy(int64(p.size))
		}
		size, crc = size+int64(p.size), by.apply(crc)^p.crc
	}
	return size, crc
}

func (u *upload) complete(ctx context.Context) (storage.Object, error) {
	s := u.s
	size, crc := u.sum()
	parts := make([]types.CompletedPart, len(u.done))
	for i, p := range u.done {
		parts[i] = types.CompletedPart{PartNumber: &p.number, ETag: p.etag}
		if u.mode.checksums {
			parts[i].ChecksumCRC64NVME = aws.String(encode(p.crc))
		}
	}
	var out *s3.CompleteMultipartUploadOutput
	attempts := 0
	err := s.retry.Do(ctx, func() error {
		for {
			in := &s3.CompleteMultipartUploadInput{
				Bucket: &s.o.Bucket, Key: &u.key, UploadId: &u.id, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
			}
			if u.mode.checksums {
				in.ChecksumCRC64NVME, in.ChecksumType, in.MpuObjectSize = aws.String(encode(crc)), types.ChecksumTypeFullObject, &size
			}
			m := mode{conditions: !s.noConditions.Load()}
			if m.conditions {
				in.IfNoneMatch = aws.String(anything)
			} else if taken, err := s.taken(ctx, u.key); err != nil || taken {
				return s.orExists(ctx, u.key, err)
			}
			attempts++
			var err error
			if out, err = s.client.CompleteMultipartUpload(ctx, in); err != nil && s.learn(m, err) {
				continue
			}
			if code(err) == "NoSuchUpload" && attempts > 1 {
				return s.exists(u.key) // an earlier attempt got through
			}
			return s.fail(ctx, "put", u.key, err)
		}
	})
	if errors.Is(err, storage.ErrExists) && attempts > 1 {
		if o, ok := s.ours(ctx, u.key, size, crc); ok {
			return o, nil
		}
	}
	if err != nil {
		return storage.Object{}, err
	}
	o := storage.Object{Key: u.key, Size: size, Modified: serverTime(out.ResultMetadata)}
	switch {
	case !u.mode.checksums:
	case aws.ToString(out.ChecksumCRC64NVME) == encode(crc):
		o.Checksum = checksumOf(crc)
	default: // the answer to a request that is repeated can lack it
		if kept, ok := s.ours(ctx, u.key, size, crc); ok {
			return kept, nil
		}
	}
	return o, nil
}

// abort removes the parts, also when ctx has ended. If that fails too, a sweep finds them later: the error that
// led here is the one to report.
func (u *upload) abort(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	_ = u.s.Abort(ctx, storage.Unfinished{Key: u.key, ID: u.id})
}
